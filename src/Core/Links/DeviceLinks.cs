namespace Virtbus.Core;

/// <summary>The links at a device. The lists are replaced, never changed, under the fabric's gate; readers take no lock.</summary>
internal sealed class DeviceLinks
{
    public IReadOnlyList<DeviceLink> Suppliers { get; set; } = [];

    public IReadOnlyList<DeviceLink> Consumers { get; set; } = [];
}
