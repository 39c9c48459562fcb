/** Every way in which a call or a reply can fail; {@link dev.parley.client.errors.ParleyException} draws the tree. */
package dev.parley.client.errors;
