"""The private listener: the application's side and the operator's. One resource a file; `app.build_app` wires them."""
