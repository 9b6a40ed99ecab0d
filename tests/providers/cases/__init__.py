"""One file a provider: how it answers each situation. The suite finds the file by the adapter's name."""
