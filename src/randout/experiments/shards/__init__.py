"""Labels the texts of sharded Parquet tables, shard by shard, with several processes or machines."""
