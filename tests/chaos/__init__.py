"""Many kills at random times, with everything else that uses a store at work beside."""
