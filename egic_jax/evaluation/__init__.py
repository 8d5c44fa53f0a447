"""What a codec is measured by."""
