using System.Text;
using Virtbus.Platform;

namespace Virtbus.Cli.Text;

/// <summary>
/// Where all verbs print. Standard output that does not take it ends the verb (<see cref="OutputException"/>); standard error that does not
/// take it is nobody's business: there is no place left to say so.
/// </summary>
internal static class StandardOutput
{
    /// <summary>Standard output, unbuffered.</summary>
    public static Stream Stream { get; } = new DescriptorStream(isError: false);

    /// <summary>Standard error, unbuffered.</summary>
    public static Stream ErrorStream { get; } = new DescriptorStream(isError: true);

    /// <summary>Makes a writer of standard output with a buffer of its own, which the caller flushes or disposes.</summary>
    public static StreamWriter NewWriter() => new(Stream, new UTF8Encoding(false), 16 << 10, leaveOpen: true) { NewLine = "\n" };

    /// <summary>Makes a writer of standard error that writes each line at once.</summary>
    public static StreamWriter NewErrorWriter() => new(ErrorStream, new UTF8Encoding(false), leaveOpen: true) { NewLine = "\n", AutoFlush = true };

    private sealed class DescriptorStream(bool isError) : Stream
    {
        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            if (isError)
                _ = StandardStreams.TryWriteError(buffer, out _);
            else if (!StandardStreams.TryWriteOutput(buffer, out var error))
                throw new OutputException(error);
        }

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
