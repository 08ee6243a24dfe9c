using Virtbus.Platform;

namespace Virtbus.Subsystems.Tty;

/// <summary>
/// What a driver of a line does (Linux: struct tty_operations). Any thread, several at once; no call blocks, or allocates. When one of them would do more than
/// before, the driver calls <see cref="TtyDevice.Wake"/>.
/// </summary>
public interface ITtyOps
{
    /// <summary>Characters of a row, and rows, of what is at the other end; 0 where that is not known.</summary>
    (int Columns, int Rows) Size { get; }

    /// <summary>Takes bytes that have come. What is not taken stays with the driver, and keeps the other end waiting.</summary>
    /// <param name="destination">Where to; one byte or more.</param>
    /// <param name="fault">With 0 bytes: none when nothing is there now, else why nothing comes any more.</param>
    /// <returns>How many.</returns>
    int Read(Span<byte> destination, out Fault fault);

    /// <summary>Sends bytes, as many as there is room for.</summary>
    /// <param name="source">The bytes; one or more.</param>
    /// <param name="fault">With fewer than all: none when there is no room now, else why there will be none.</param>
    /// <returns>How many were taken, from the first on.</returns>
    int Write(ReadOnlySpan<byte> source, out Fault fault);
}
