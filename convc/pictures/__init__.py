"""Pictures of what a network has learned and sees, drawn with Pillow."""
