using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>A part of a ring in host memory: it lies there in one piece, aligned, however many ranges it is mapped by, or is reached otherwise.</summary>
internal static class RingArea
{
    /// <summary>Finds a part, in a stay.</summary>
    /// <returns>
    /// None; EFAULT: not there, or not aligned on the host; EACCES; EOPNOTSUPP: some of it is reached by messages, or it lies in pieces, as behind an IOMMU
    /// of the guest: the port reaches all of it.
    /// </returns>
    internal static Errno Find(in DmaSection section, IovaRange area, DmaAccess access, uint alignment, out nint address)
    {
        var hint = default(DmaHint);
        var answer = Errno.None;
        address = 0;
        // The end of the address space is the end.
        if (area.Last < area.Start.Value)
            return Errno.EFAULT;
        for (ulong done = 0; done < area.Size;)
        {
            var error = section.Translate(new Iova(area.Start.Value + done), (uint)(area.Size - done), access, ref hint, out var run);
            if (error is not (Errno.None or Errno.EOPNOTSUPP))
                return error;
            if (done == 0)
                address = run.Address;
            if (error != Errno.None || run.Address != address + (nint)done)
                answer = Errno.EOPNOTSUPP;
            if (done == 0 && ((nuint)run.Address & alignment) != 0)
                return Errno.EFAULT;
            done += (ulong)run.Length;
        }

        return answer;
    }

    /// <summary>What two parts come to: one that is reached by messages makes all of it so; one that is not reached at all ends it.</summary>
    internal static Errno Worse(Errno one, Errno other) => one is Errno.None or Errno.EOPNOTSUPP && other != Errno.None ? other : one;
}
