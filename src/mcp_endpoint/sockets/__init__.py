"""The WebSocket transport of the broker: server side, client side, framing and keepalive."""
