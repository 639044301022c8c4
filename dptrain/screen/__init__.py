"""`dptrain screen`: which patients to look at first, from one training."""
