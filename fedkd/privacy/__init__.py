"""What an owner lets out, and what that costs."""
