using System.Net;
using System.Net.Sockets;
using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>
/// A TCP socket whose close waits: it lingers, and its far end reads nothing. The close goes on when this is disposed.
/// </summary>
internal sealed class Lingering : IDisposable
{
    private readonly Socket _far;

    internal Lingering()
    {
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen();
        var near = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        near.Connect(listener.LocalEndPoint!);
        _far = listener.Accept();
        near.LingerState = new LingerOption(true, 3600);
        near.Blocking = false;
        var bytes = new byte[64 << 10];
        while (near.Send(bytes, SocketFlags.None, out var error) > 0 || error == SocketError.Success)
        {
        }

        // Taken from the runtime, which would make its close a short one.
        Descriptor = new FileDescriptor(Libc.fcntl_number((int)near.SafeHandle.DangerousGetHandle(), Libc.F_DUPFD_CLOEXEC, 0));
        _ = Libc.close((int)near.SafeHandle.DangerousGetHandle());
        near.SafeHandle.SetHandleAsInvalid();
    }

    /// <summary>The socket. Once it was passed, the number here is closed by <see cref="Forget"/>, so that another close is the last.</summary>
    internal FileDescriptor Descriptor { get; }

    /// <summary>Closes the number here; does not wait, since it is not the last.</summary>
    internal void Forget() => Descriptor.Dispose();

    public void Dispose()
    {
        // What was not read is there still: the close resets the connection, and nothing is left to linger for.
        _far.LingerState = new LingerOption(true, 0);
        _far.Dispose();
        Descriptor.Dispose();
    }
}
