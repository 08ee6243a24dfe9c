namespace Virtbus.Daemon.Logs;

/// <summary>Log lines that go to a stream, for one standard error. What is written to a closed one is lost.</summary>
/// <param name="stream">The stream; not closed.</param>
internal sealed class StreamLog(Stream stream) : ILogOutput
{
    public bool TryWrite(ReadOnlySpan<byte> text, out string error)
    {
        error = "";
        try
        {
            stream.Write(text);
            stream.Flush();
            return true;
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or UnauthorizedAccessException)
        {
            error = e.Message;
            return false;
        }
    }
}
