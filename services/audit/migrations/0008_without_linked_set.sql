-- Who is one person is consent's to say, with each decision (docs/decisions/0023); no release reads this table.
-- squawk-ignore-file ban-drop-table
DROP TABLE linked_set;
