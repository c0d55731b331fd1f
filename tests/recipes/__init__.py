"""How the test images are made. scripts/make-images runs these, and so do the differential tests."""
