"""What a node decides: pure functions of (state, input, now). The door is `node.Node.step`."""
