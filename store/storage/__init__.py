"""Where a store lies (a folder, a bucket): reading, listing, creating under a free name, claims on shards."""
