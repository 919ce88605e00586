"""What any long job needs: run folders, locks, safe files, seeds, processes, progress. Independent of any policy."""
