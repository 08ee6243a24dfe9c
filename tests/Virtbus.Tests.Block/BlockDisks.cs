using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>Disks of every kind and way, on the disk's file system and on tmpfs, in folders that go with it.</summary>
internal sealed class BlockDisks : IDisposable
{
    internal const int Size = 256 << 10;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus-block");
    private readonly DirectoryInfo _memory = Directory.CreateDirectory($"/dev/shm/virtbus-block-{Environment.ProcessId}-{Guid.NewGuid():N}");
    private readonly List<IDisposable> _opened = [];

    /// <summary>By name, what <see cref="Open"/> makes.</summary>
    public static TheoryData<string> Kinds => ["memory", "tmpfs", "cached", "uring", "worker", "direct", "direct-worker", "faulty"];

    /// <summary>Those that are files.</summary>
    public static TheoryData<string> Files => ["tmpfs", "cached", "uring", "worker", "direct", "direct-worker"];

    internal string PathOf(string kind) => Path.Combine(kind == "tmpfs" ? _memory.FullName : _folder.FullName, kind + ".img");

    internal IBlockBackend Open(string kind, int size = Size)
    {
        if (kind == "faulty")
        {
            // What it does to requests shows in no content.
            var plan = new FaultPlan { Seed = 7, Delay = 0.5, Reorder = true };
            return Keep(new FaultyBackend(Keep(new MemoryBackend(size)), plan));
        }

        return kind == "memory" ? Keep(new MemoryBackend(size)) : OpenFile(kind, size);
    }

    internal FileBackend OpenFile(string kind, int size = Size)
    {
        var path = PathOf(kind);
        if (!File.Exists(path))
            File.WriteAllBytes(path, new byte[size]);
        var file = FileBackend.Open(path, direct: kind.StartsWith("direct", StringComparison.Ordinal));
        file.Way = kind switch
        {
            "uring" => FileWay.Uring,
            "worker" or "direct-worker" => FileWay.Worker,
            _ => FileWay.Best,
        };
        return Keep(file);
    }

    /// <summary>What is in the file, read past its lock.</summary>
    internal byte[] Content(string kind)
    {
        using var file = FileDescriptor.TryOpen(PathOf(kind), writable: false, out _);
        Assert.True(file!.TryGetStatus(out var status));
        var bytes = new byte[status.Size];
        Assert.Equal(bytes.Length, file.Read(bytes, 0, out _));
        return bytes;
    }

    public void Dispose()
    {
        _opened.Reverse();
        foreach (var opened in _opened)
            opened.Dispose();
        _folder.Delete(recursive: true);
        _memory.Delete(recursive: true);
    }

    private T Keep<T>(T disk)
        where T : IDisposable
    {
        _opened.Add(disk);
        return disk;
    }
}
