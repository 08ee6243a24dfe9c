using Virtbus.Provisioning;

namespace Virtbus.Buses.Vdpa;

/// <summary>Attributes that profiles of vDPA devices have. A provider declares those that it takes, and others of its own.</summary>
public static class VdpaFields
{
    private const int MaxSerial = 20;

    /// <summary>The virtio device type, as a number; 2, block, when it is not set.</summary>
    public static readonly ProfileField<int> Type = ProfileFields.Number("type", "the virtio device type, 2 for block,", 1, 63, standard: 2);

    /// <summary>The only driver of the vdpa bus that may take the device; any when it is not set.</summary>
    public static readonly ProfileField<string> Driver = ProfileFields.Driver("vhost-vdpa");

    /// <summary>Block: what GET_ID answers (VIRTIO 1.2, 5.2.6); the name, as far as it fits, when it is not set.</summary>
    public static readonly ProfileField<string> Serial =
        ProfileFields.Text("serial", $"at most {MaxSerial} printable ASCII characters", static t => t.Length <= MaxSerial && t.All(static c => c is >= ' ' and <= '~'));

    /// <summary>Block: the medium that was put into the provider's hardware, by its name.</summary>
    public static readonly ProfileField<string> Medium = ProfileFields.Text("medium", "the name of a medium that was put into the adapter", static t => t.Length <= 96, isRequired: true);

    /// <summary>Block: the size of a disk that the provider makes itself, in bytes.</summary>
    public static readonly ProfileField<long> Capacity = ProfileFields.Size("capacity", 512, isRequired: true);

    /// <summary>Whether the device offers packed rings beside split ones.</summary>
    public static readonly ProfileField<bool> Packed = ProfileFields.Flag("packed");

    /// <summary>The number of request queues.</summary>
    /// <param name="most">The most that the provider makes.</param>
    public static ProfileField<int> Queues(int most) => ProfileFields.Number("queues", "request queues", 1, most, standard: 1);

    /// <summary>The serial number of a profile.</summary>
    /// <param name="profile">The profile.</param>
    public static string SerialOf(FunctionProfile profile)
    {
        ArgumentNullException.ThrowIfNull(profile);
        if (profile.TryGet(Serial, out var serial))
            return serial;
        return profile.Name.Length <= MaxSerial ? profile.Name : profile.Name[..MaxSerial];
    }
}
