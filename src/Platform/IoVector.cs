using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// One run of host memory, with the layout of <c>struct iovec</c>, so that a list of them goes to the kernel as it stands.
/// It holds nothing alive: who hands it out says for how long the memory behind it stays mapped.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public readonly struct IoVector
{
    /// <summary>Names <paramref name="length"/> bytes at <paramref name="address"/>.</summary>
    /// <param name="address">Host virtual address of the first byte.</param>
    /// <param name="length">Length in bytes.</param>
    public IoVector(nint address, nuint length)
    {
        Address = address;
        Length = length;
    }

    /// <summary>Host virtual address of the first byte.</summary>
    public nint Address { get; }

    /// <summary>Length in bytes.</summary>
    public nuint Length { get; }

    /// <summary>
    /// The bytes, for a copy. A peer may change them at any moment, so a value that decides something is copied out first and only the
    /// copy is looked at.
    /// </summary>
    /// <returns>A view that is valid as long as the memory stays mapped.</returns>
    public unsafe Span<byte> AsSpan()
    {
        // SAFETY: whoever made the vector checked the run against a live mapping and holds that mapping while the vector is in use;
        // lengths come from 32-bit descriptor lengths, and a run beyond 2 GiB is refused by the checked conversion.
        return new Span<byte>((void*)Address, checked((int)Length));
    }
}
