"""Sources of tasks that are elsewhere: fetched once into the cache, and found there by the jobs.

`cache` has the layout and says where the tree of a pinned source is; `source_fetcher` resolves a
branch or tag to its commit and fetches the tree, with `git_trees` or `hub_trees`. What a text names
is in manifest/task_source.
"""
