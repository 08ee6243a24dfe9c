using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>Memory of this process at an aligned address, for direct transfers. Freed once; whoever has a request on its way with it holds it.</summary>
public sealed unsafe class AlignedBuffer : SafeHandle
{
    /// <summary>Takes memory.</summary>
    /// <param name="length">Length in bytes, above 0.</param>
    /// <param name="alignment">What its address is a multiple of: a power of two.</param>
    public AlignedBuffer(int length, int alignment)
        : base(0, ownsHandle: true)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length, nameof(length));
        Length = length;
        // SAFETY: freed by ReleaseHandle alone, when nobody holds the handle any more.
        SetHandle((nint)NativeMemory.AlignedAlloc((nuint)length, (nuint)alignment));
    }

    /// <summary>Length in bytes.</summary>
    public int Length { get; }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Names its first bytes.</summary>
    /// <param name="length">How many, at most <see cref="Length"/>.</param>
    /// <returns>The run; valid until the buffer is disposed.</returns>
    public IoVector Take(int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)length, (uint)Length, nameof(length));
        return new IoVector(handle, (nuint)length);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        NativeMemory.AlignedFree((void*)handle);
        return true;
    }
}
