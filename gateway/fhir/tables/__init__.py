"""The rows of the table of interactions by area, and the RPCs behind them."""
