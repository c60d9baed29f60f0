"""Where the stages meet: it answers prompts, grows experts and tells what happens by events."""
