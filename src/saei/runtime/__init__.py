"""What any long job needs: locks of folders, files that are whole or not there, checksums. Knows no policy."""
