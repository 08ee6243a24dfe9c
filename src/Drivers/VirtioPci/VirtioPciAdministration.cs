using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminGroupType;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>
/// What a function administers: which commands device and driver agreed on, for itself and for its virtual functions, and the numbers of objects that are in use.
/// Any thread but one that interrupts.
/// </summary>
internal sealed class VirtioPciAdministration(PciDevice device, VirtioPciAdminMonitor? state = null) : IVirtioAdminOwner
{
    private const byte IdSize = 2;
    private static readonly Fault NotThere = new(Errno.EOPNOTSUPP, "the device has no such administration command");
    private static readonly Fault WasReset = new(Errno.EIO, "the device was reset");

    // Held for a moment, but by who waits for it to say something else.
    private readonly VirtioPciAdminMonitor _state = state ?? new VirtioPciAdminMonitor();
    private readonly Dictionary<uint, int> _objects = [];
    private VirtioPciAdminQueue? _queue;
    private AdminCommandSet _commands;
    // The virtual functions that were there when the device was asked: with others, or any at all, it may have other commands.
    private IReadOnlyList<PciDevice>? _askedWith;
    private int _limit;
    private int _running;
    private bool _isAsking;

    public AdminCommandSet Commands
    {
        get
        {
            Refresh();
            lock (_state)
                return _queue is { IsOver: false } ? _commands : default;
        }
    }

    public int ObjectLimit
    {
        get
        {
            lock (_state)
                return _limit;
        }
    }

    /// <summary>The device runs: agrees with it on commands. One that does not, or does not answer, has none.</summary>
    internal void Start(VirtioPciAdminQueue queue)
    {
        lock (_state)
            (_queue, _askedWith) = (queue, null);
        Refresh();
    }

    /// <summary>The queue goes: there is no command any more, and no object.</summary>
    internal void Stop()
    {
        lock (_state)
        {
            (_queue, _commands, _limit) = (null, default, 0);
            _objects.Clear();
        }
    }

    public bool TryExecute(ushort opcode, int function, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault)
    {
        written = 0;
        Refresh();
        VirtioPciAdminQueue? queue;
        lock (_state)
        {
            // No other command may be with the device while the list is agreed on (2.12.1).
            while (_isAsking)
                _state.Wait();
            queue = _queue;
            fault = queue is null ? WasReset : _commands.Has(opcode) ? Fault.None : NotThere;
            if (fault != Fault.None)
                return false;
            _running++;
        }

        try
        {
            return queue!.TryExecute(new AdminCommand(opcode, VIRTIO_ADMIN_GROUP_TYPE_SRIOV, (ulong)function + 1), head, body, result, out written, out fault);
        }
        finally
        {
            lock (_state)
            {
                _running--;
                _state.Tell();
            }
        }
    }

    public bool TryTakeObject(int function, out uint id)
    {
        lock (_state)
        {
            for (id = 0; id < _limit; id++)
            {
                if (_objects.TryAdd(id, function))
                    return true;
            }
        }

        id = 0;
        return false;
    }

    public bool HasObject(int function, uint id)
    {
        lock (_state)
            return _objects.TryGetValue(id, out var owner) && owner == function;
    }

    public void FreeObject(int function, uint id)
    {
        lock (_state)
        {
            if (_objects.TryGetValue(id, out var owner) && owner == function)
                _objects.Remove(id);
        }
    }

    private void Refresh()
    {
        lock (_state)
        {
            while (_isAsking)
                _state.Wait();
            if (_queue is null || ReferenceEquals(_askedWith, device.VirtualFunctions))
                return;
            _isAsking = true;
            while (_running > 0)
                _state.Wait();
        }

        try
        {
            Ask();
        }
        finally
        {
            lock (_state)
            {
                _isAsking = false;
                _state.Tell();
            }
        }
    }

    private void Ask()
    {
        VirtioPciAdminQueue? queue;
        int? limit;
        lock (_state)
        {
            queue = _queue;
            limit = _askedWith is null ? null : _limit;
        }

        // It went meanwhile.
        if (queue is null)
            return;
        var functions = device.VirtualFunctions;
        var commands = Agree(queue, VIRTIO_ADMIN_GROUP_TYPE_SRIOV, AdminCommandSet.Legacy | AdminCommandSet.DeviceParts);
        // What it is itself stays.
        limit ??= Agree(queue, VIRTIO_ADMIN_GROUP_TYPE_SELF, AdminCommandSet.Capabilities).HasAll(AdminCommandSet.Capabilities) ? AgreeOnObjects(queue) : 0;
        lock (_state)
        {
            if (_queue != queue)
                return;
            (_commands, _askedWith, _limit) = (commands, functions, limit.Value);
            // Those of virtual functions that are there no more.
            _objects.Clear();
        }
    }

    private static AdminCommandSet Agree(VirtioPciAdminQueue queue, ushort group, AdminCommandSet known)
    {
        Span<byte> list = stackalloc byte[AdminCommandSet.Size];
        if (!queue.TryExecute(new AdminCommand(VIRTIO_ADMIN_CMD_LIST_QUERY, group, 0), [], [], list, out _, out _))
            return default;
        _ = AdminCommandSet.TryRead(list, out var offered);
        // What goes together only is of no use alone.
        var use = offered & (AdminCommandSet.Lists | known);
        if (!use.HasAll(AdminCommandSet.LegacyAccess))
            use = Without(use, AdminCommandSet.Legacy);
        if (!use.HasAll(AdminCommandSet.DeviceParts))
            use = Without(use, AdminCommandSet.DeviceParts);
        if (!use.HasAll(AdminCommandSet.Capabilities))
            use = Without(use, AdminCommandSet.Capabilities);
        use.Write(list);
        return queue.TryExecute(new AdminCommand(VIRTIO_ADMIN_CMD_LIST_USE, group, 0), list, [], [], out _, out _) ? use : default;
    }

    private static AdminCommandSet Without(AdminCommandSet set, AdminCommandSet other) => new(set.Bits & ~other.Bits);

    // As many of either kind, as they share their numbers.
    private static int AgreeOnObjects(VirtioPciAdminQueue queue)
    {
        Span<byte> result = stackalloc byte[sizeof(ulong)];
        if (!queue.TryExecute(new AdminCommand(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, VIRTIO_ADMIN_GROUP_TYPE_SELF, 0), [], [], result, out _, out _))
            return 0;
        if ((result[0] & (1 << AdminCapability.VIRTIO_DEV_PARTS_CAP)) == 0)
            return 0;
        Span<byte> data = stackalloc byte[AdminCapability.HeaderSize + sizeof(ulong)];
        data.Clear();
        System.Buffers.Binary.BinaryPrimitives.WriteUInt16LittleEndian(data[..IdSize], AdminCapability.VIRTIO_DEV_PARTS_CAP);
        if (!queue.TryExecute(new AdminCommand(VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, VIRTIO_ADMIN_GROUP_TYPE_SELF, 0), data[..AdminCapability.HeaderSize], [], result, out _, out _))
            return 0;
        var there = DevicePartsCapability.Read(result);
        var limit = Math.Min(there.GetLimit, there.SetLimit);
        if (limit == 0)
            return 0;
        new DevicePartsCapability(limit, limit).Write(data[AdminCapability.HeaderSize..]);
        return queue.TryExecute(new AdminCommand(VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, VIRTIO_ADMIN_GROUP_TYPE_SELF, 0), data, [], [], out _, out _) ? limit : 0;
    }
}
