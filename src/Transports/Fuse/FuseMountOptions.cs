namespace Virtbus.Transports.Fuse;

/// <summary>What a mount is made with.</summary>
public sealed class FuseMountOptions
{
    /// <summary>Where it is, for messages and for whoever lists mounts.</summary>
    public required string Folder { get; init; }

    /// <summary>Who owns every file: a user id, as it is seen where it was mounted. That user counts as root, and so does 0.</summary>
    public uint User { get; init; }

    /// <summary>The group that every file is of.</summary>
    public uint Group { get; init; }

    /// <summary>Threads that answer; 1 to 64.</summary>
    public int Threads { get; init; } = 4;

    /// <summary>The most names that are kept for the kernel; ENOMEM to who looks up another one.</summary>
    public int MaxNames { get; init; } = 4 << 20;

    /// <summary>What a write waits for before it is answered, beside its own end; null for nothing.</summary>
    public Func<CancellationToken, Task>? Settle { get; init; }
}
