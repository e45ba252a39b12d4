-- The keys of 0001, which the blocks of 0003 took the place of: no release reads or writes them any more.
-- squawk-ignore-file ban-drop-table
DROP TABLE match_key;
