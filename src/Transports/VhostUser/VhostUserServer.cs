using Microsoft.Extensions.Logging;
using Virtbus.Buses.Vdpa;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Subsystems.Vhost;
using Virtbus.Virtio.Rings;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>
/// A vhost-user back end: offers a vDPA device on a Unix socket, to one front end (QEMU, libblkio, DPDK) at a time. When that one goes,
/// all that it shared is let go of and the next is served. A thread answers the requests of a front end that is there; poll threads serve the
/// rings. While none is there, the server costs no thread.
/// </summary>
public sealed class VhostUserServer : SocketServer
{
    private readonly IVdpaOps _device;

    /// <summary>Makes a server that does not listen yet.</summary>
    /// <param name="path">Path of the socket file, at most 107 bytes.</param>
    /// <param name="device">The device; it is the server's alone until the server has stopped.</param>
    /// <param name="logger">Where events 1000 to 1099 go.</param>
    /// <param name="time">The clock for the rate of log lines; the system's when left out.</param>
    public VhostUserServer(string path, IVdpaOps device, ILogger logger, TimeProvider? time = null)
        : base("vhost-user", path, logger, time) => _device = device;

    /// <summary>Virtio features that the connected front end took; 0 without one.</summary>
    public ulong PeerFeatures => (Session as VhostUserSession)?.Features ?? 0;

    /// <summary>Protocol features (VHOST_USER_PROTOCOL_F_*) that the connected front end took; 0 without one.</summary>
    public ulong PeerProtocolFeatures => (Session as VhostUserSession)?.ProtocolFeatures ?? 0;

    /// <summary>How many queues the device has.</summary>
    public int QueueCount => _device.QueueCount;

    /// <summary>What pays for the mappings of front ends' memory.</summary>
    internal MappingBudget Mappings { get; init; } = MappingBudget.Process;

    /// <summary>Makes what offers every vhost device of a fabric on a vhost-user socket of its name.</summary>
    /// <param name="folder">The folder of the sockets; it exists.</param>
    /// <param name="log">Where the servers log.</param>
    /// <param name="time">The clock for the rate of log lines.</param>
    public static SocketExporter MakeExporter(string folder, ILogger log, TimeProvider time) => new(
        folder,
        (device, path) => new VhostUserServer(path, ((VhostDevice)device).Ops, log, time),
        (label, reason) => VhostUserLog.NotOffered(log, label, reason));

    /// <summary>Reads a queue's counters.</summary>
    /// <param name="queue">Queue number, below <see cref="QueueCount"/>.</param>
    /// <returns>The counters since the device was made.</returns>
    public QueueCounters GetQueueCounters(int queue) => _device.GetQueueCounters(queue);

    internal void LogTurnedAway(long session, Fault fault)
    {
        if (MayLogMessage(out var suppressed))
            VhostUserLog.TurnedAway(Logger, Path, session, fault.Errno, fault.Message, suppressed);
    }

    internal void LogBadMessage(long session, VhostUserRequest request, Fault fault, string answer)
    {
        CountBadMessage();
        if (MayLogMessage(out var suppressed))
            VhostUserLog.BadMessage(Logger, Path, session, request, fault.Errno, fault.Message, answer, suppressed);
    }

    /// <summary>The front end set a ring up, but let nobody reach its memory.</summary>
    internal void SayUnshared(long session)
    {
        SetHint($"The front end shares no memory, which the device needs: {ConnectedPeer.ShareMemory}");
        if (MayLogMessage(out var suppressed))
            VhostUserLog.Unshared(Logger, Path, session, suppressed);
    }

    private protected override IPeerSession Open(UnixStream stream, long number, ConnectedPeer peer) =>
        new VhostUserSession(this, _device, stream, Logger, number, peer);

    private protected override void Begin() => _device.SetQueueFaultCallback(LogQueueFault);

    private protected override void End() => _device.SetQueueFaultCallback(null);

    private protected override void SayListening() => VhostUserLog.Listening(Logger, Path);

    private protected override void SayStopped() => VhostUserLog.Stopped(Logger, Path);

    private protected override void SayLeftOut(long suppressed) => VhostUserLog.LeftOut(Logger, Path, suppressed);

    private protected override void SayAcceptFailed(Errno error) => VhostUserLog.AcceptFailed(Logger, Path, error);

    private protected override void SayConnected(long session) => VhostUserLog.Connected(Logger, Path, session);

    private protected override void SayDisconnected(long session, string reason) => VhostUserLog.Disconnected(Logger, Path, session, reason);

    private protected override void SaySessionFailed(long session, Exception exception) => VhostUserLog.SessionFailed(Logger, exception, Path, session);

    private void LogQueueFault(int queue, Fault fault)
    {
        if (MayLogMessage(out var suppressed))
            VhostUserLog.QueueBroken(Logger, Path, queue, fault.Errno, fault.Message, suppressed);
    }
}
