"""SSD on COCO, a workload of the paper; by default a miniature of it that is made on the spot."""
