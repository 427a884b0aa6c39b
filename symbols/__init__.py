"""What a network is: backbones and loss heads, as functions of MXNet symbols."""
