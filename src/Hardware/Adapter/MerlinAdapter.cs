using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The first make of simulated adapter: a driver puts a command into its mailbox and finds the reply there. What a command makes is
/// reached by the handle in the reply.
/// </summary>
/// <param name="engine">The inside; disposed with the adapter.</param>
public sealed class MerlinAdapter(AdapterEngine engine) : IDisposable
{
    /// <summary>The model name that drivers match by.</summary>
    public const string Model = "merlin";

    private readonly Lock _mailbox = new();

    /// <summary>The inside of the adapter, for who puts media in and plugs the wire.</summary>
    public AdapterEngine Engine { get; } = engine;

    /// <summary>Executes one command; one at a time.</summary>
    /// <param name="command">The command.</param>
    public MerlinReply Execute(MerlinCommand command)
    {
        lock (_mailbox)
        {
            switch (command.Opcode)
            {
                case MerlinOpcode.QueryCapabilities:
                    return new MerlinReply(Errno.None, (uint)(Engine.NetworkParts | (Engine.VdpaParts << 16)));
                case MerlinOpcode.QueryAddress:
                    return new MerlinReply(Errno.None, Engine.MacAddress);
                case MerlinOpcode.AllocateQueueSet:
                    return Engine.TryAllocate((int)command.Argument, out var set, out var fault)
                        ? new MerlinReply(Errno.None, set!.Id)
                        : new MerlinReply(fault.Errno, 0);
                case MerlinOpcode.FreeQueueSet:
                    return new MerlinReply(Engine.TryFree(command.Argument, out fault) ? Errno.None : fault.Errno, 0);
                default:
                    return new MerlinReply(Errno.EOPNOTSUPP, 0);
            }
        }
    }

    /// <summary>The queue set of a handle; null when there is none.</summary>
    /// <param name="handle">What <see cref="MerlinOpcode.AllocateQueueSet"/> replied.</param>
    public QueueSet? MapQueueSet(uint handle) => Engine.TryGet(handle, out var set) ? set : null;

    /// <summary>Makes a virtio block function; see <see cref="AdapterEngine.CreateBlockFunction"/>.</summary>
    /// <param name="name">The function's name.</param>
    /// <param name="medium">The medium's name.</param>
    /// <param name="serial">What it answers to GET_ID.</param>
    /// <param name="queues">Request queues.</param>
    public VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues) =>
        Engine.CreateBlockFunction(name, medium, serial, queues);

    /// <inheritdoc/>
    public void Dispose() => Engine.Dispose();
}
