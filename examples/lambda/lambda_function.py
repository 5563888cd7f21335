"""A handler as AWS Lambda has them, unchanged: two parameters, Lambda's answer, Lambda's handler name."""

import json


def lambda_handler(event, context):
    name = (event or {}).get("name", "world")
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(
            {
                "message": f"hello, {name}",
                "request_id": context.aws_request_id,
                "remaining_ms": context.get_remaining_time_in_millis(),
            }
        ),
    }
