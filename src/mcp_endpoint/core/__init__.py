"""The core: endpoints, who is attached to them, and which call goes where; pure."""
