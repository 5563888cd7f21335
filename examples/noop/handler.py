"""The smallest function: answers what it is given."""


def handler(event):
    return event
