using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Remote.VfioUser;

/// <summary>A vfio-user server that greets as others do and then does what it is told to.</summary>
internal sealed class HostileServer : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly EventFd _stop = new();
    private readonly UnixListener _listener;
    private readonly Thread _thread;

    /// <param name="serve">What it does with a client that was greeted; null: it does not even greet.</param>
    /// <param name="greeting">The text of its greeting.</param>
    internal HostileServer(Action<HostileServer>? serve, string greeting = "{}")
    {
        _listener = UnixListener.Listen(Path.Combine(_folder.FullName, "socket"));
        _thread = new Thread(() =>
        {
            if (!Polling.Wait(_listener.Descriptor, forWriting: false, _stop) || _listener.TryAccept(out _) is not { } stream)
                return;
            using (Stream = stream)
            {
                Received.Set();
                if (serve is null)
                    Polling.Wait(_stop.Descriptor, forWriting: false, cancel: null);
                else if (TryRead(out var id, out _))
                    ServeFrom(id, greeting, serve);
            }
        }) { IsBackground = true };
        _thread.Start();
    }

    internal string Socket => _listener.Path;

    /// <summary>Set when a client is there.</summary>
    internal ManualResetEventSlim Received { get; } = new();

    private UnixStream Stream { get; set; } = null!;

    public void Dispose()
    {
        _stop.Signal();
        _thread.Ends("the hostile server");
        _listener.Dispose();
        _stop.Dispose();
        Received.Dispose();
        _folder.Delete(recursive: true);
    }

    /// <summary>Sends requests for the client's memory for as long as there is room for them, until the client or the test ends.</summary>
    /// <param name="takesAnswers">Whether what comes is read.</param>
    internal void Flood(bool takesAnswers)
    {
        byte[] requests = [.. Enumerable.Range(0, 64).SelectMany(i => Message(VfioUserCommand.DMA_READ, Longs(0, 4096), 0, (ushort)i))];
        var sink = new byte[1 << 16];
        ReadOnlySpan<byte> rest = requests;
        while (true)
        {
            var sent = Stream.Send(rest, [], out var error);
            if (sent < 0 && error != Errno.EAGAIN)
                return;
            rest = sent < 0 ? rest : rest[sent..];
            rest = rest.IsEmpty ? requests : rest;
            while (takesAnswers && Stream.Receive(sink, [], out _) > 0)
            {
            }

            if (_stop.TryRead(out _))
                return;
            if (sent < 0)
                Polling.Wait(Stream.Descriptor, forWriting: true, cancel: null, 10);
        }
    }

    private void ServeFrom(ushort id, string greeting, Action<HostileServer> serve)
    {
        Stream.Send(Message(VfioUserCommand.VERSION, Version(greeting), 1, id), [], out _);
        serve(this);
    }

    private bool TryRead(out ushort id, out byte[] message)
    {
        id = 0;
        message = new byte[1 << 12];
        var have = 0;
        while (have < 16 || have < BinaryPrimitives.ReadInt32LittleEndian(message.AsSpan(4)))
        {
            if (!Polling.Wait(Stream.Descriptor, forWriting: false, _stop))
                return false;
            var count = Stream.Receive(message.AsSpan(have), [], out _);
            if (count <= 0)
                return false;
            have += count;
        }

        id = BinaryPrimitives.ReadUInt16LittleEndian(message);
        return true;
    }
}
