using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>A part of a ring in host memory: it lies there in one piece, aligned, or not at all.</summary>
internal static class RingArea
{
    /// <summary>Finds a part, in a stay.</summary>
    /// <returns>None; EFAULT: not there, in pieces, or not aligned on the host; EACCES; EOPNOTSUPP: all of it is reached by messages.</returns>
    internal static Errno Find(in DmaSection section, IovaRange area, DmaAccess access, uint alignment, out nint address)
    {
        var hint = default(DmaHint);
        var error = section.Translate(area.Start, (uint)area.Size, access, ref hint, out var run);
        address = run.Address;
        return error is Errno.None or Errno.EOPNOTSUPP && ((ulong)run.Length != area.Size || ((nuint)run.Address & alignment) != 0) ? Errno.EFAULT : error;
    }

    /// <summary>What two parts come to: one that is reached by messages makes all of it so; one that is not reached at all ends it.</summary>
    internal static Errno Worse(Errno one, Errno other) => one is Errno.None or Errno.EOPNOTSUPP && other != Errno.None ? other : one;
}
