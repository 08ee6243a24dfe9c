using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// A vfio-user server: offers a VFIO device on a Unix socket, to one client (QEMU, a driver in user space) at a time; others wait until it is
/// gone. The device is open while a client is connected: with the client all that it mapped and set up goes, and the device is reset, as
/// when the last descriptor of a VFIO device is closed. Then the next one is served.
/// </summary>
/// <remarks>A client is served by a thread of its own. While none is there, the server costs no thread.</remarks>
public sealed class VfioUserServer : SocketServer
{
    private readonly VfioDevice _device;
    private readonly VfioUserServerOptions _options;

    /// <summary>Makes a server that does not listen yet.</summary>
    /// <param name="path">Path of the socket file, at most 107 bytes.</param>
    /// <param name="device">The device; it is opened for each client.</param>
    /// <param name="logger">Where events 1100 to 1199 go.</param>
    /// <param name="options">Limits and ways; the usual ones when left out.</param>
    /// <param name="time">The clock for the rate of log lines; the system's when left out.</param>
    public VfioUserServer(string path, VfioDevice device, ILogger logger, VfioUserServerOptions? options = null, TimeProvider? time = null)
        : base("vfio-user", path, logger, time)
    {
        _device = device;
        _options = options ?? new VfioUserServerOptions();
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDescriptors is >= 1 and <= VfioUserProtocol.MaxDescriptors, true, nameof(options));
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDataTransfer is >= 1 and <= VfioUserProtocol.MaxDataTransfer, true, nameof(options));
        ArgumentOutOfRangeException.ThrowIfNotEqual(_options.MaxDmaMaps is >= 1 and <= VfioUserProtocol.MaxDmaMaps, true, nameof(options));
    }

    /// <summary>Makes what offers every VFIO device of a fabric on a vfio-user socket of its name.</summary>
    /// <param name="folder">The folder of the sockets; it exists.</param>
    /// <param name="log">Where the servers log.</param>
    /// <param name="time">The clock for the rate of log lines.</param>
    /// <param name="options">Limits and ways of the servers; the usual ones when left out.</param>
    public static SocketExporter MakeExporter(string folder, ILogger log, TimeProvider time, VfioUserServerOptions? options = null) => new(
        folder,
        (device, path) => new VfioUserServer(path, (VfioDevice)device, log, options, time),
        (label, reason) => VfioUserLog.NotOffered(log, label, reason));

    internal void LogBadMessage(long session, VfioUserCommand command, Fault fault, string answer)
    {
        CountBadMessage();
        if (MayLogMessage(out var suppressed))
            VfioUserLog.BadMessage(Logger, Path, session, command, fault.Errno, fault.Message, answer, suppressed);
    }

    /// <summary>Most of what the client maps it keeps to itself.</summary>
    internal void SayUnshared(long session)
    {
        SetHint($"The client shares no memory, so the device reaches it by messages, which is slow; to share it, {ConnectedPeer.ShareMemory}");
        if (MayLog())
            VfioUserLog.MessageDma(Logger, Path, session);
    }

    private protected override IPeerSession Open(UnixStream stream, long number, ConnectedPeer peer) =>
        new VfioUserSession(this, _device, stream, _options, Logger, number, peer);

    private protected override void SayListening() => VfioUserLog.Listening(Logger, Path);

    private protected override void SayStopped() => VfioUserLog.Stopped(Logger, Path);

    private protected override void SayLeftOut(long suppressed) => VfioUserLog.LeftOut(Logger, Path, suppressed);

    private protected override void SayAcceptFailed(Errno error) => VfioUserLog.AcceptFailed(Logger, Path, error);

    private protected override void SayConnected(long session) => VfioUserLog.Connected(Logger, Path, session);

    private protected override void SayDisconnected(long session, string reason) => VfioUserLog.Disconnected(Logger, Path, session, reason);

    private protected override void SaySessionFailed(long session, Exception exception) => VfioUserLog.SessionFailed(Logger, exception, Path, session);
}
