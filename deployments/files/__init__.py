"""Files kept for a limited time: uploads and annotated pictures, in a folder or an object store."""
