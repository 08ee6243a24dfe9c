using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>The links of a fabric: who asks for which, how requests merge, when one goes. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class LinkTable
{
    private const DeviceLinkFlags AutoremoveFlags = DeviceLinkFlags.AutoremoveConsumer | DeviceLinkFlags.AutoremoveSupplier;

    private const DeviceLinkFlags ManagedFlags = AutoremoveFlags | DeviceLinkFlags.AutoprobeConsumer;

    private const DeviceLinkFlags LinkFlags = ManagedFlags | DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive;

    private readonly Fabric _fabric;
    private readonly List<DeviceLink> _links = [];

    internal LinkTable(Fabric fabric) => _fabric = fabric;

    internal DeviceLink Add(Device consumer, Device supplier, DeviceLinkFlags flags)
    {
        ArgumentNullException.ThrowIfNull(consumer);
        ArgumentNullException.ThrowIfNull(supplier);
        ThrowIfContradictory(consumer, supplier, flags);
        if (WakesSupplier(flags))
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {nameof(DeviceLinkFlags.RpmActive)} waits until {supplier.Name} is awake. Use {nameof(Fabric.AddLinkAsync)}.");
        lock (_fabric.Gate)
            return AddInGate(consumer, supplier, flags);
    }

    internal async ValueTask<DeviceLink> AddAsync(Device consumer, Device supplier, DeviceLinkFlags flags, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(consumer);
        ArgumentNullException.ThrowIfNull(supplier);
        if (!WakesSupplier(flags))
            return Add(consumer, supplier, flags);
        ThrowIfContradictory(consumer, supplier, flags);
        await supplier.Power.RuntimeGetAsync(cancellationToken);
        try
        {
            lock (_fabric.Gate)
            {
                var link = AddInGate(consumer, supplier, flags);
                link.TryKeepUse();
                return link;
            }
        }
        catch
        {
            await supplier.Power.LetGoAsync();
            throw;
        }
    }

    internal void Remove(DeviceLink link)
    {
        ArgumentNullException.ThrowIfNull(link);
        lock (_fabric.Gate)
        {
            if (!_links.Contains(link))
                return;
            if (!link.IsStateless && link.Consumer.State == DeviceState.Added)
                throw new VirtbusException(Errno.EINVAL, $"Link {link.Supplier.Name} -> {link.Consumer.Name} is managed: it goes with one of the two devices, or at an unbind when it has an autoremove flag. Make it {nameof(DeviceLinkFlags.Stateless)} to remove it by hand.");
            if (!link.IsStateless || link.RemoveStateless())
                RemoveInGate(link);
        }
    }

    internal IReadOnlyList<DeviceLink> Snapshot()
    {
        lock (_fabric.Gate)
            return [.. _links];
    }

    internal void RemoveInGate(DeviceLink link)
    {
        if (!_links.Remove(link))
            return;
        link.Consumer.Links!.Suppliers = [.. link.Consumer.Links.Suppliers.Where(l => l != link)];
        link.Supplier.Links!.Consumers = [.. link.Supplier.Links.Consumers.Where(l => l != link)];
        // A supplier that leaves has forgotten its uses already.
        if (link.TakeUses(last: true) is > 0 and var uses && link.Supplier.State == DeviceState.Added)
            _fabric.StartWork("runtime idle of " + link.Supplier.Name, () => link.Supplier.Power.LetGoAsync(uses).AsTask());
        RetryConsumerInGate(link);
    }

    internal void EndManagedInGate(DeviceLink link)
    {
        if (link.EndManaged())
            RemoveInGate(link);
        else
            RetryConsumerInGate(link);
    }

    // Linux: device_is_dependent. Children and consumers of a device depend on it, and what else it names.
    internal static bool DependsOn(Device device, Device on)
    {
        if (device == on)
            return true;
        var seen = new HashSet<Device> { on };
        var pending = new Stack<Device>([on]);
        while (pending.TryPop(out var next))
        {
            foreach (var dependent in next.Children.Concat(next.Links?.Consumers.Select(l => l.Consumer) ?? []).Concat(next.Dependents))
            {
                if (dependent == device)
                    return true;
                if (seen.Add(dependent))
                    pending.Push(dependent);
            }
        }
        return false;
    }

    private static bool WakesSupplier(DeviceLinkFlags flags) => flags.HasFlag(DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive);

    // What of a request makes no sense whatever the devices are.
    private static void ThrowIfContradictory(Device consumer, Device supplier, DeviceLinkFlags flags)
    {
        if ((flags & ~LinkFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: 0x{(int)(flags & ~LinkFlags):x} is no flag of a link. Leave these bits out.");
        if (flags.HasFlag(DeviceLinkFlags.Stateless) && (flags & ManagedFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: a stateless link does not follow binding, so {flags & ManagedFlags} has no meaning. Drop one of them.");
        if (flags.HasFlag(DeviceLinkFlags.AutoprobeConsumer) && (flags & AutoremoveFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {nameof(DeviceLinkFlags.AutoprobeConsumer)} is for a link that outlives an unbind, {flags & AutoremoveFlags} for one that does not. Drop one of them.");
    }

    private DeviceLink AddInGate(Device consumer, Device supplier, DeviceLinkFlags flags)
    {
        if (supplier.State != DeviceState.Added || consumer.State is DeviceState.Deleted or DeviceState.Released)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {(supplier.State != DeviceState.Added ? supplier.Name : consumer.Name)} is not in the tree.");
        if (DependsOn(supplier, consumer))
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {supplier.Name} itself depends on {consumer.Name}. Links must not form a circle.");
        // Asked for together, the one that keeps the link longer counts.
        if (flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier))
            flags &= ~DeviceLinkFlags.AutoremoveConsumer;
        if (consumer.Links?.Suppliers.FirstOrDefault(l => l.Supplier == supplier) is { } there)
        {
            there.Add(flags, isFirst: false);
            return there;
        }
        var link = new DeviceLink(supplier, consumer);
        link.Add(flags, isFirst: true);
        var ofConsumer = consumer.Extras.Links ??= new DeviceLinks();
        var ofSupplier = supplier.Extras.Links ??= new DeviceLinks();
        ofConsumer.Suppliers = [.. ofConsumer.Suppliers, link];
        ofSupplier.Consumers = [.. ofSupplier.Consumers, link];
        _links.Add(link);
        return link;
    }

    // It may have waited for this supplier only.
    private void RetryConsumerInGate(DeviceLink link)
    {
        if (link.Consumer.IsDeferred)
            _fabric.Binder.Deferred.RetryInGate();
    }
}
