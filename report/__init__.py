"""From finished runs to tables, tests, pictures and a page. Nothing of how the runs were trained."""
