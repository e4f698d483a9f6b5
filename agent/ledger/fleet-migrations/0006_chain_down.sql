DROP TABLE broken_links;
DROP TABLE chain_ends;
