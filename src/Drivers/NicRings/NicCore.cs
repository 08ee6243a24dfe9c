using System.Buffers.Binary;
using System.Globalization;
using System.Net.NetworkInformation;
using System.Text;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>
/// The core of a function of an adapter, physical or virtual: makes the parts that it is capable of, and turns registers, commands, events
/// and interrupts into what parts use. The core drivers of all makes share it; a make brings its <see cref="NicRegisters"/>.
/// </summary>
/// <remarks>Members that execute a command must not be called from an interrupt of the adapter.</remarks>
public sealed partial class NicCore : INicCore, INicLink, INicQueueSets, INicVirtio, IDisposable
{
    private const int MaxVectors = 512;
    private const int ParametersSize = 256;
    private const int TextSize = 96;
    private const int SerialSize = 20;
    private readonly Lock _lock = new();
    private readonly PciDevice _device;
    private readonly NicRegisters _registers;
    private readonly ILogger _log;
    private readonly IdAllocator _pasids = new();
    private readonly List<NicPart> _parts = [];
    private readonly NicQueueAllocator _allocator;
    private readonly NicChannel _channel;
    private readonly NicMigration? _migration;
    private NicRingQueueSet[] _queues = [];
    private NicVirtioFunction[] _functions = [];
    private NicVfSettings[] _settings = [];
    private Action<NicEvent>[] _handlers = [];
    private volatile bool _linkUp = true;

    private NicCore(PciDevice device, NicRegisters registers)
    {
        _device = device;
        _registers = registers;
        _log = device.Fabric!.LoggerFactory.CreateLogger("Virtbus.Nic");
        var vectors = device.AllocateVectors(2, MaxVectors, PciInterruptKinds.MsiX);
        try
        {
            // The first one is for events.
            _allocator = new NicQueueAllocator(device, (int)(registers.Read(NicRegister.Queues) & 0xFFFF), vectors.Skip(1));
            _channel = new NicChannel(device, registers, vectors[0], TakeNotice);
            _migration = device.TotalVirtualFunctions > 0 ? new NicMigration(device, _channel) : null;
        }
        catch
        {
            device.FreeVectors();
            throw;
        }
    }

    /// <inheritdoc/>
    public Device Device => _device;

    /// <inheritdoc/>
    public bool IsLinkUp => _linkUp;

    /// <inheritdoc/>
    public int Total => _allocator.Total;

    /// <inheritdoc/>
    public int Used => _allocator.Used;

    /// <summary>The attributes that an adapter has while a core driver is bound.</summary>
    public static IReadOnlyList<AttributeGroup> DeviceAttributeGroups { get; } =
    [
        new(
            new ObjectAttribute<Device>("address", d => Subsystems.Net.NetDevice.FormatAddress(Of(d).Identify().MacAddress)),
            new ObjectAttribute<Device>("carrier", d => Of(d).IsLinkUp ? "1" : "0", (d, value, _) =>
            {
                Of(d).SetLink(AttributeValue.ParseBoolean(d.DevPath + "/carrier", value));
                return default;
            }),
            new ObjectAttribute<Device>("model", d => Of(d).Identify().Make)),
    ];

    /// <summary>Enables a function and its command queue.</summary>
    /// <param name="device">The function.</param>
    /// <param name="registers">How its make is spoken to.</param>
    /// <exception cref="VirtbusException">ENODEV: it is of another make; EIO: it does not answer; EPERM, ENOMEM: no memory for its commands.</exception>
    public static NicCore Start(PciDevice device, NicRegisters registers)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(registers);
        device.Enable();
        try
        {
            var identity = registers.Read(NicRegister.Identity);
            if ((uint)identity != registers.Letters)
                throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is no {registers.Make} (its identity is 0x{identity:x}). Bind the driver of its make.");
            device.SetMaster(true);
            var core = new NicCore(device, registers);
            try
            {
                core._channel.Start();
                core._linkUp = (registers.Read(NicRegister.Status) & 2) != 0;
                return core;
            }
            catch
            {
                core.Dispose();
                throw;
            }
        }
        catch
        {
            device.Disable();
            throw;
        }
    }

    /// <summary>The core of a device that a core driver is bound to; null for another device.</summary>
    /// <param name="device">The device.</param>
    public static NicCore? TryGet(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.Driver is NicCoreDriver ? device.GetDriverData<NicCore>() : null;
    }

    /// <inheritdoc/>
    public T? Find<T>()
        where T : class => this as T ?? _migration as T;

    /// <inheritdoc/>
    public ulong ReadAddress(int port) => Identify().MacAddress + (ulong)port;

    /// <summary>Asks the adapter who it is.</summary>
    /// <exception cref="VirtbusException">EIO: the hardware does not answer as it should.</exception>
    public NicIdentity Identify()
    {
        var parts = _registers.Read(NicRegister.Parts);
        if (parts == ulong.MaxValue || parts == uint.MaxValue)
            throw new VirtbusException(Errno.EIO, $"Adapter {_device.Name} does not answer. Reset its slot, or plug it again.");
        return new NicIdentity(_registers.Make, _registers.Read(NicRegister.MacAddress), (int)(parts & 0xFFFF), (int)(parts >> 16 & 0xFFFF));
    }

    /// <inheritdoc/>
    public INicQueueSet Allocate(string user, int depth)
    {
        if (depth is < 2 or > 32768 || !int.IsPow2(depth))
            throw new VirtbusException(Errno.EINVAL, $"Adapter {_device.Name} has no queue sets of {depth} buffers. Choose a power of two from 2 to 32768.");
        ArgumentNullException.ThrowIfNull(user);
        var vectors = _allocator.Take(user, 1);
        NicRingQueueSet? queues = null;
        try
        {
            queues = new NicRingQueueSet(this, _registers, _device.IommuGroup, user, vectors[0], depth);
            queues.Id = (int)Execute(NicOpcode.CreateQueueSet, 0, [.. queues.Rings]).First;
        }
        catch
        {
            queues?.FreeMemory();
            _allocator.Return(user, vectors);
            throw;
        }
        lock (_lock)
            Volatile.Write(ref _queues, [.. _queues, queues]);
        return queues;
    }

    /// <inheritdoc/>
    public INicVirtioFunction CreateBlockFunction(string name, string medium, string serial, int queues, bool packed)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(medium);
        ArgumentNullException.ThrowIfNull(serial);
        if (queues is < 1 or > 256)
            throw new VirtbusException(Errno.EINVAL, $"Virtio function '{name}' cannot have {queues} queues. Choose 1 to 256.");
        if (serial.Length > SerialSize || !Ascii.IsValid(serial))
            throw new VirtbusException(Errno.EINVAL, $"Serial '{serial}' of '{name}' does not fit. Choose at most {SerialSize} ASCII characters.");
        if (name.Length > TextSize || medium.Length > TextSize || !Ascii.IsValid(name) || !Ascii.IsValid(medium))
            throw new VirtbusException(Errno.EINVAL, $"Names '{name}' and '{medium}' do not fit. Choose at most {TextSize} ASCII characters.");
        // 0 marks requests without a PASID.
        var pasid = _pasids.Allocate() + 1;
        PciVector[] vectors = [];
        try
        {
            vectors = _allocator.Take(name, queues);
            var window = CreateWindow(name, medium, serial, queues, packed, pasid);
            var function = new NicVirtioFunction(this, _registers, name, window, pasid, vectors);
            lock (_lock)
                Volatile.Write(ref _functions, [.. _functions, function]);
            return function;
        }
        catch
        {
            _pasids.Free(pasid - 1);
            _allocator.Return(name, vectors);
            throw;
        }
    }

    /// <inheritdoc/>
    public IDisposable Subscribe(Action<NicEvent> handler)
    {
        ArgumentNullException.ThrowIfNull(handler);
        lock (_lock)
            _handlers = [.. _handlers, handler];
        return new Subscription(this, handler);
    }

    /// <summary>Its virtual functions, for a physical function whose probe has ended.</summary>
    internal NicVirtualFunctions? VirtualFunctions { get; set; }

    /// <summary>Sets the link; the parts of all functions are told by then, those of virtual functions soon.</summary>
    /// <param name="up">Whether it carries.</param>
    /// <exception cref="VirtbusException">EPERM: a virtual function; ENODEV, EIO.</exception>
    public void SetLink(bool up) => Execute(NicOpcode.SetLink, 0, [up ? 1u : 0]);

    /// <summary>What a virtual function is, or is to be.</summary>
    /// <exception cref="VirtbusException">EPERM: this is a virtual function; ENOENT: it can have no such one; ENODEV, EIO.</exception>
    internal NicVfSettings GetVirtualFunction(int vf)
    {
        var answer = Execute(NicOpcode.QueryFunction, NicMigration.FunctionIdOf(vf), []);
        return new NicVfSettings(answer.First, (int)(answer.Second & 0xFFFF));
    }

    /// <summary>Says what a virtual function is to be, before it is enabled (PV-01).</summary>
    /// <exception cref="VirtbusException">EBUSY: it is enabled; EINVAL: address or queue sets; else as <see cref="GetVirtualFunction"/>.</exception>
    internal void SetVirtualFunction(int vf, NicVfSettings settings) =>
        Execute(NicOpcode.SetFunction, NicMigration.FunctionIdOf(vf), [settings.MacAddress, (ulong)settings.QueueSets]);

    /// <summary>
    /// Creates one virtual-bus device for each part that the function is capable of (MS-01).
    /// </summary>
    /// <param name="module">The core driver's module, the first part of the names.</param>
    /// <param name="ids">The module's allocators; an id comes back when its device is released.</param>
    public async ValueTask CreatePartsAsync(string module, NicPartIds ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var identity = Identify();
        for (var port = 0; port < identity.NetworkParts; port++)
            await CreatePartAsync(module, NicPartKind.Net, port, ids.Net);
        for (var port = 0; port < identity.VdpaParts; port++)
            await CreatePartAsync(module, NicPartKind.Vdpa, port, ids.Vdpa);
        if (_device.TotalVirtualFunctions > 0 && !_parts.Exists(IsChannel))
            await CreatePartAsync(module, NicPartKind.Migration, 0, ids.Migration);
    }

    /// <summary>Deletes the parts, newest first.</summary>
    public ValueTask DestroyPartsAsync() => DestroyPartsAsync(static _ => true);

    /// <summary>
    /// Before a reset: deletes the parts that have something in the function. The channel to the virtual functions stays, so that those who have one of them keep
    /// it; and what each of them is to be is kept, as the reset forgets it.
    /// </summary>
    public async ValueTask PrepareResetAsync()
    {
        _settings = ReadSettings();
        await DestroyPartsAsync(static part => !IsChannel(part));
    }

    /// <summary>Enables the function again after a reset, <see cref="PrepareResetAsync"/> before it.</summary>
    /// <exception cref="VirtbusException">EIO: it does not answer.</exception>
    public void Restart()
    {
        _device.SetMaster(true);
        _channel.Start();
        var (before, now) = (_settings, ReadSettings());
        _settings = [];
        if (before.Length != now.Length || before.SequenceEqual(now))
            return;
        _device.RenewVirtualFunctions(() =>
        {
            for (var vf = 0; vf < now.Length; vf++)
            {
                if (before[vf] != now[vf])
                    SetVirtualFunction(vf, before[vf]);
            }
        });
    }

    /// <summary>Resets the function and gives back what it took. The parts have to be gone.</summary>
    public void Dispose()
    {
        _channel.Dispose();
        _device.FreeVectors();
        _device.Disable();
    }

    internal void Free(NicRingQueueSet queues)
    {
        lock (_lock)
            Volatile.Write(ref _queues, [.. _queues.Where(q => q != queues)]);
        // Refused only when the adapter is gone or stuck, and then it reaches the memory no more once that is unmapped.
        _channel.TryExecute(NicOpcode.DestroyQueueSet, (uint)queues.Id, [], out _, out _);
        _allocator.Return(queues.User, [queues.Vector]);
        queues.FreeMemory();
    }

    internal void Free(NicVirtioFunction function)
    {
        lock (_lock)
            Volatile.Write(ref _functions, [.. _functions.Where(f => f != function)]);
        _channel.TryExecute(NicOpcode.DestroyVirtio, (uint)function.Window, [], out _, out _);
        function.TryAttach(null, out _);
        _allocator.Return(function.User, function.Vectors);
        _pasids.Free(function.Pasid - 1);
    }

    private static bool IsChannel(NicPart part) => part.Kind == NicPartKind.Migration;

    private async ValueTask DestroyPartsAsync(Predicate<NicPart> which)
    {
        var bus = Device.Fabric!.GetBus<AuxiliaryBus>();
        while (_parts.FindLastIndex(which) is >= 0 and var last)
        {
            var part = _parts[last];
            _parts.RemoveAt(last);
            await bus.DestroyAsync(part);
        }
    }

    // None when the function does not answer, which may be why it is reset.
    private NicVfSettings[] ReadSettings()
    {
        try
        {
            return [.. Enumerable.Range(0, _device.TotalVirtualFunctions).Select(GetVirtualFunction)];
        }
        catch (VirtbusException)
        {
            return [];
        }
    }

    private static NicCore Of(Device device) =>
        device.GetDriverData<NicCore>() ?? throw new VirtbusException(Errno.ENODEV, $"Adapter {device.Name} lost its driver meanwhile.");

    private NicNotice Execute(NicOpcode opcode, uint index, ReadOnlySpan<ulong> arguments) =>
        _channel.TryExecute(opcode, index, arguments, out var answer, out var fault)
            ? answer
            : throw new VirtbusException(fault.Errno, $"Adapter {_device.Name} refused {opcode}({index}): {fault.Errno}. {Remedy(fault.Errno)}");

    private static string Remedy(Errno errno) => errno switch
    {
        Errno.EBUSY => "What it is about is in use; take that away first, virtual functions by writing 0 to sriov_numvfs.",
        Errno.ENOSPC => "All are out; take an interface down or remove a disk.",
        Errno.EPERM => "Only the physical function can do that.",
        Errno.ENOENT or Errno.ENODEV => "It is not there, or not any more.",
        Errno.EIO => "The adapter does not answer; reset it.",
        _ => "A value is out of range.",
    };

    private int CreateWindow(string name, string medium, string serial, int queues, bool packed, uint pasid)
    {
        lock (_channel.Turn)
        {
            var parameters = _channel.Scratch[..ParametersSize];
            parameters.Clear();
            BinaryPrimitives.WriteUInt32LittleEndian(parameters, pasid);
            BinaryPrimitives.WriteUInt16LittleEndian(parameters[4..], (ushort)queues);
            BinaryPrimitives.WriteUInt16LittleEndian(parameters[6..], packed ? (ushort)1 : (ushort)0);
            Encoding.ASCII.GetBytes(serial, parameters[8..]);
            Encoding.ASCII.GetBytes(name, parameters[32..]);
            Encoding.ASCII.GetBytes(medium, parameters[128..]);
            if (_channel.TryExecute(NicOpcode.CreateVirtioBlock, 0, [_channel.ScratchAddress], out var answer, out var fault))
                return (int)answer.First;
            throw new VirtbusException(fault.Errno, fault.Errno switch
            {
                Errno.ENOENT => $"Adapter {_device.Name} has no medium '{medium}'. Put a file or memory in under that name first.",
                Errno.ENOSPC => $"Adapter {_device.Name} has no virtio window left for '{name}'. Remove a disk.",
                _ => $"Adapter {_device.Name} refused virtio function '{name}': {fault.Errno}, {fault.Message}. Check its profile.",
            });
        }
    }

    // On the adapter's thread.
    private void TakeNotice(NicNotice notice)
    {
        switch (notice.Type)
        {
            case NicNoticeType.Link:
                TakeLink(notice.First == 1);
                break;
            case NicNoticeType.QueueError:
                LogQueueError(_log, _device.Name, notice.Tag, notice.First);
                Array.Find(Volatile.Read(ref _queues), q => q.Id == (int)notice.Tag)?.Fail();
                break;
            case NicNoticeType.VirtioError:
                Array.Find(Volatile.Read(ref _functions), f => f.Window == (int)notice.Tag)?.Tell((int)notice.First, notice.Status);
                break;
            case NicNoticeType.VirtioConfig:
                Array.Find(Volatile.Read(ref _functions), f => f.Window == (int)notice.Tag)?.Tell(-1, Errno.None);
                break;
        }
    }

    private void TakeLink(bool up)
    {
        Action<NicEvent>[] handlers;
        lock (_lock)
        {
            if (_linkUp == up)
                return;
            _linkUp = up;
            handlers = _handlers;
        }
        foreach (var handler in handlers)
            handler(up ? NicEvent.LinkUp : NicEvent.LinkDown);
    }

    private async ValueTask CreatePartAsync(string module, string kind, int port, IdAllocator ids)
    {
        var bus = Device.Fabric!.GetBus<AuxiliaryBus>();
        var id = ids.Allocate();
        NicPart part;
        try
        {
            part = new NicPart(bus, module, kind, id, port, this) { Release = _ => ids.Free(id) };
        }
        catch
        {
            ids.Free(id);
            throw;
        }
        await Device.Fabric.RegisterAsync(part);
        _parts.Add(part);
    }

    [LoggerMessage(701, LogLevel.Warning, "Adapter {Adapter} stopped queue set {QueueSet}: error {Error}")]
    private static partial void LogQueueError(ILogger log, string adapter, uint queueSet, ulong error);

    private sealed class Subscription(NicCore core, Action<NicEvent> handler) : IDisposable
    {
        public void Dispose()
        {
            lock (core._lock)
                core._handlers = [.. core._handlers.Where(h => h != handler)];
        }
    }
}
