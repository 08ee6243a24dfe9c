using Virtbus.Platform;

namespace Virtbus.Daemon.Logs;

/// <summary>
/// Log lines that go to a file of bounded size. A line that would make it larger than that begins a new one; the full one stays as PATH.1, in place
/// of the one before. So the two are never larger than twice the size together.
/// </summary>
internal sealed class LogFile : ILogOutput, IDisposable
{
    /// <summary>The size of a daemon's log, in bytes.</summary>
    public const long DefaultCapacity = 8 << 20;

    private readonly string _path;
    private readonly long _capacity;
    private readonly Action? _begun;
    private AppendFile? _file;
    private bool _isTorn;

    /// <param name="path">The file; what is in it stays.</param>
    /// <param name="capacity">The most bytes in it.</param>
    /// <param name="begun">Called when a new file took the place of a full one.</param>
    /// <exception cref="VirtbusException">The file can't be opened or made.</exception>
    public LogFile(string path, long capacity = DefaultCapacity, Action? begun = null)
    {
        _path = path;
        _capacity = capacity;
        _begun = begun;
        _file = AppendFile.TryOpen(path, out var error) ?? throw new VirtbusException(error,
            $"Log file {path} can't be opened: {error}. Make room on its disk, or set VIRTBUS_RUNTIME to another folder.");
    }

    public bool TryWrite(ReadOnlySpan<byte> text, out string error)
    {
        var errno = Errno.None;
        // With a mark, so that the next line does not continue one of which only a part was written.
        var isWritten = TryMakeRoom(text.Length, out errno) && (!_isTorn || _file!.TryWrite("\n"u8, out errno));
        if (isWritten)
        {
            isWritten = _file!.TryWrite(text, out errno);
            _isTorn = !isWritten;
        }

        error = isWritten ? "" : $"{errno}";
        return isWritten;
    }

    public void Dispose() => _file?.Dispose();

    private bool TryMakeRoom(int length, out Errno error)
    {
        error = Errno.None;
        if (_file is { } file && (file.Length == 0 || file.Length + length <= _capacity))
            return true;
        if (_file is not null)
        {
            try
            {
                File.Move(_path, _path + ".1", overwrite: true);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Rather lines are lost than a disk is filled.
                error = Errno.EFBIG;
                return false;
            }

            _file.Dispose();
            _isTorn = false;
        }

        _file = AppendFile.TryOpen(_path, out error);
        if (_file is null)
            return false;
        try
        {
            _begun?.Invoke();
        }
        catch (VirtbusException)
        {
            // The log goes on; what else follows it does so with the next file.
        }

        return true;
    }
}
