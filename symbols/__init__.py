"""What a network is: ``fresnet`` and the loss heads, as functions of MXNet symbols."""
