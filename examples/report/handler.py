"""A report by pandas over a CSV of 100,000 orders.

The CSV is written once, when the module is imported, from a seed: before the snapshot, so that every instance has it.
"""

import io
import random

import pandas as pd

ROWS = 100_000
REGIONS = ("north", "east", "south", "west")
PRODUCTS = ("anvil", "bolt", "cable", "drill", "easel", "file")


def make_csv(rows=ROWS, seed=2024):
    """The orders as CSV text: the same for the same seed."""
    rng = random.Random(seed)
    out = io.StringIO()
    out.write("order,day,region,product,quantity,price\n")
    for order in range(rows):
        day = f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
        region, product = rng.choice(REGIONS), rng.choice(PRODUCTS)
        out.write(f"{order},{day},{region},{product},{rng.randrange(1, 20)},{rng.randrange(100, 100_000) / 100:.2f}\n")
    return out.getvalue()


CSV = make_csv()


def handler(event):
    """{"region": name or none, "top": 3} → a summary as JSON."""
    event = event if isinstance(event, dict) else {}
    orders = pd.read_csv(io.StringIO(CSV), parse_dates=["day"])
    if event.get("region"):
        orders = orders[orders.region == event["region"]]
    orders["revenue"] = orders.quantity * orders.price
    by_product = orders.groupby("product").revenue.sum().sort_values(ascending=False)
    by_month = orders.groupby(orders.day.dt.month).revenue.sum()
    return {
        "orders": len(orders),
        "revenue": round(float(orders.revenue.sum()), 2),
        "mean_order": round(float(orders.revenue.mean()), 2) if len(orders) else None,
        "best_products": {
            name: round(float(value), 2) for name, value in by_product.head(int(event.get("top") or 3)).items()
        },
        "by_month": {str(month): round(float(value), 2) for month, value in by_month.items()},
    }
