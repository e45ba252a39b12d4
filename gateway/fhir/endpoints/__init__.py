"""The endpoints by area: each reads the request with a pure module, makes its calls, and writes the answer."""
