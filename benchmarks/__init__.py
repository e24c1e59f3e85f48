"""Side-by-side measurements: this project, what a user would use instead, and the limit of the machine.

``python -m benchmarks [ROW ...]`` from the root of the checkout, or ``make bench ROWS="epoch votes"``.
A row is a function of (`small`, `folder`) that returns a `harness.Result`; `harness.ROWS` lists them.
"""
