"""Small tar shards, written by the standard library."""

import io
import tarfile


def write_tar(path, members, *, format=tarfile.GNU_FORMAT):
    """``members``: (name, bytes) pairs, or ready-made ``TarInfo`` objects without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def image(shard, k):
    """Bytes that say whose they are, of various lengths."""
    return f"jpeg {shard} {k} ".encode() * (40 + 7 * k)


def example(shard, k):
    """An example's files."""
    return [(f"{shard:02d}-{k:04d}.jpg", image(shard, k)), (f"{shard:02d}-{k:04d}.cls", str(10 * shard + k).encode())]


def write_shards(folder, *, num_shards=3, num_examples=5, name="train"):
    """``train-0000.tar`` and so on; the last has one example less. Their names."""
    names = []
    for shard in range(num_shards):
        length = num_examples - (shard == num_shards - 1)
        names.append(f"{name}-{shard:04d}.tar")
        write_tar(folder / names[-1], [member for k in range(length) for member in example(shard, k)])
    return names
