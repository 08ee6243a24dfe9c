using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A line of class <c>tty</c>, which is open for as long as a client is connected.</summary>
internal sealed class TtyTextPort(TtyDevice device) : ITextPort
{
    private const int ChunkSize = 512;

    private readonly Lock _turn = new();
    private readonly byte[] _chunk = new byte[ChunkSize];
    private SerialLine? _line;
    private TtyUser? _user;
    private int _begin;
    private int _count;
    private int _wantsRoom;

    // A line is its driver's, which keeps what is on its way over a reset.
    public int Resets => 0;

    public int Backlog => 64 << 10;

    public bool TryConnect(SerialLine line, out Fault fault)
    {
        try
        {
            var user = device.Open(line.Connection.Name ?? "a console", Tell);
            lock (_turn)
                (_line, _user, _begin, _count) = (line, user, 0, 0);
        }
        catch (VirtbusException e)
        {
            fault = new Fault(e.Errno, e.Message);
            return false;
        }

        fault = Fault.None;
        // What came before the line was there for it.
        Pump();
        return true;
    }

    public void Disconnect(SerialLine line)
    {
        TtyUser? user;
        lock (_turn)
        {
            if (_line != line)
                return;
            (user, _line, _user) = (_user, null, null);
        }

        user?.Dispose();
    }

    public int TrySend(ReadOnlySpan<byte> bytes, int resets)
    {
        TtyUser? user;
        lock (_turn)
            user = _user;
        // First: there may be room before the answer is looked at.
        Volatile.Write(ref _wantsRoom, 1);
        Fault fault = default;
        var taken = user?.Write(bytes, TimeSpan.Zero, out fault) ?? bytes.Length;
        if (taken < bytes.Length && fault.Errno == Errno.EAGAIN)
            return taken;
        Volatile.Write(ref _wantsRoom, 0);
        // A line that failed or hung up takes nothing any more.
        return bytes.Length;
    }

    public void Resume() => Pump();

    private void Tell()
    {
        if (Interlocked.Exchange(ref _wantsRoom, 0) != 0)
            Volatile.Read(ref _line)?.CanSend();
        Pump();
    }

    private void Pump()
    {
        lock (_turn)
        {
            while (_user is { } user && _line is { } line)
            {
                if (_count == 0)
                    (_begin, _count) = (0, user.Read(_chunk, TimeSpan.Zero, out _));
                if (_count == 0)
                    return;
                var taken = line.Receive(_chunk.AsSpan(_begin, _count));
                _begin += taken;
                _count -= taken;
                // The rest when the client has read.
                if (_count > 0)
                    return;
            }
        }
    }
}
