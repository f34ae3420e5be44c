"""An image unpacked into a folder: what is in it, and what keeps it from running for anybody."""
