"""`dptrain train`: the model to release, its privacy statement, and the list of all releases on the same patients."""
