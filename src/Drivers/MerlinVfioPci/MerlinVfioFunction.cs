using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Drivers.VfioPci;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>
/// A virtual function with what the tool box does, migration through its physical function's channel, and a log of what it writes. Registers,
/// config space and interrupts go the way of PCI; saving and stopping go through the channel (VP-06).
/// </summary>
internal sealed class MerlinVfioFunction : VfioPciFunction
{
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly VfioDmaLogging _logging;
    private INicMigration? _channel;
    private INicMigration? _paired;
    private VfioMigration? _migration;

    public MerlinVfioFunction(PciDevice device)
        : base(device)
    {
        PhysicalFunction = device.PhysicalFunction!;
        _logging = new VfioDmaLogging(device.Dma);
    }

    public PciDevice PhysicalFunction { get; }

    /// <summary>The channel that is bound now; null while there is none, or the function is being unbound.</summary>
    public INicMigration? Channel
    {
        get => Volatile.Read(ref _channel);
        set => Volatile.Write(ref _channel, value);
    }

    /// <inheritdoc/>
    public override IVfioMigrationOps? Migration => Volatile.Read(ref _migration);

    /// <inheritdoc/>
    public override IVfioDmaLoggingOps DmaLogging => _logging;

    /// <summary>
    /// Makes the VFIO device be there when the channel is, and not when it is not. One at a time; who comes while a user is waited for waits
    /// with.
    /// </summary>
    public async ValueTask SettleAsync()
    {
        await _turn.WaitAsync();
        try
        {
            var channel = Channel;
            if (channel != _paired)
            {
                await UnregisterAsync();
                _paired = null;
                Volatile.Write(ref _migration, null);
            }
            if (channel is null || Registered is not null)
                return;
            Volatile.Write(ref _migration, MerlinMigration.Create(Device, channel));
            await RegisterAsync();
            _paired = channel;
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <inheritdoc/>
    public override void Close()
    {
        _logging.Stop();
        base.Close();
    }

    /// <summary>A reset function runs, whatever the channel had made of it before. What it wrote stays in the log: its user still moves.</summary>
    protected override void OnReset() => Volatile.Read(ref _migration)?.Reset();
}
